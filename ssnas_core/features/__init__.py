"""Views of samples, stored or made anew."""
