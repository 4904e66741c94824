"""What is reported: one module for each JSON document, and metrics."""
