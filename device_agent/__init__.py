"""The process on the device: it senses, chooses, trains and reports."""
