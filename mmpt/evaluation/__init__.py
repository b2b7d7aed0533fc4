"""What is measured of a model while it trains and afterwards, beyond its losses."""
