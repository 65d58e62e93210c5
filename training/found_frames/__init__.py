"""Which of the frames that a detector finds count: SGMN's frame graph learns it beside a model that
stays as it is, from what that sees of clips (`looks`) and the boxes annotated there (`objective`).
"""
