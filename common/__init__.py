"""What every package may use and what depends on none of them."""
