"""Methods compared: scenarios x methods x seeds in parallel processes, kept, summed up and drawn."""
