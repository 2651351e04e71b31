"""The protocol both sides speak: messages, codec, topics, bus."""
