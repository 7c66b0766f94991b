"""How well do explanation methods find the lesions that they should find?"""
