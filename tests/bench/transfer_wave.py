"""stub"""


def run(*a, **k):
    return {}
