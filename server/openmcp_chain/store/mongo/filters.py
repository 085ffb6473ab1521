def query(chosen):
    return {}
