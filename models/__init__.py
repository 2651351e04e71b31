"""What is learned: graphs, widths, sub-networks, engines, data."""
