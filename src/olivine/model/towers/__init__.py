"""Families of vision towers, one a file, behind the registry `olivine.towers`; and how one is loaded and read."""
