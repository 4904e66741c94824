"""The conformance suite: what every strategy keeps to, and the means to try it."""
