"""Learning from a stream with prototypes: labelled vectors, few enough to keep and to send."""
