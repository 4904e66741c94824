"""What people and programs read of a result: screens, columns and their formats."""
