"""What services promise each other and the world: structs, problems, operations, one Protocol each."""
