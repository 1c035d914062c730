"""Families of vision towers, one per file, behind the registry `olivine.towers`; and how one is loaded and read."""
