"""The Dockerfile language: parsing, expansion, stages, ignore files and lint. Pure; reads no file and no clock."""
