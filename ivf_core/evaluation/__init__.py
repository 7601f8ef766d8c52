"""Scores of pictures, videos and bags, and the reports that show them."""
