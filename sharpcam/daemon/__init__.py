"""What `sharpcam run` does beside its frames: it closes the camera while nobody watches, and takes orders."""
