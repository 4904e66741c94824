"""Foreign image formats, which are only refused or converted."""
