"""Networks that map observations to actions and values."""
