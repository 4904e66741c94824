"""``provision --batch``: many disks, by a file of orders."""
