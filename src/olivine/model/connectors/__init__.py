"""Connectors, one kind per file, behind the registry `olivine.connectors`; and the LLaVA classes that hold them."""
