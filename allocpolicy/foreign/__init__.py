"""Foreign image formats: images that are only refused or converted."""
