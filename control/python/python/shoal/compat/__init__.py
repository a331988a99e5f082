"""The interfaces of other systems, over Shoal: one import line changes."""
