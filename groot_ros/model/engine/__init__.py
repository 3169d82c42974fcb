"""The network of a loaded checkpoint, frozen for one robot and made fast."""
