"""Flows as data, and the agent that runs them, over the public API: a flow is a task whose handler asks for steps.

reading    TOML or JSON -> Flow (spec.py); builder: the same from Python     checks, offers   what is wrong with it, before it runs
agent      the capability mesh.flow: the stock handler                       interpreter      drives the graph, replayed by step name
graph      a picture in text, DOT, Mermaid                                   plan             who would run it, and how long it takes
"""
