"""What is learned from: data sets, their partition over devices, and mini-batches."""
