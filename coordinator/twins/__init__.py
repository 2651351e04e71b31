"""Digital twins: the device's own code without the device, on a virtual clock where a fleet is simulated."""
