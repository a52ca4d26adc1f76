"""Has anything moved since the router was trained?"""
