"""Mathematics that several methods share; no method lives here."""
