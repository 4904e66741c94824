"""What is told of the work: one module for each JSON document, and metrics."""
