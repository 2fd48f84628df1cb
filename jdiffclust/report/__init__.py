"""What a finished run leaves: result files, figures and a self-contained HTML page."""
