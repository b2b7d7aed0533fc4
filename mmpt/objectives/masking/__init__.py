"""Which tokens are hidden: ratio x unit x importance."""
