"""A web page about job trees, and its API: jobTreeMonitor. Nothing else in jobtree knows of it; it can be removed.

    trees.py      what is read of one tree, each answer bounded
    history.py    throughput over time, in memory
    watching.py   looks at every tree again and again, once for all who listen
    events.py     tells them (server-sent events)
    steering.py   writes requests to masters: retry, forget, kill, pause
    security.py   who may ask: decided before anything else looks at a request
    api.py        the questions and their answers as JSON; openapi.py describes them, metrics.py is for Prometheus
    server.py     puts all of it together
    static/       the page: plain modules, no build step; static/uplot is a library of others (its README.md)

What must hold
  - It reads trees and writes requests, as every other command does, and keeps nothing that matters: killing it disturbs
    nothing, and several may look at one tree.
  - What it costs a run does not grow with the tree, nor with how many look at the page.
  - It serves this machine alone, and nobody on it who has not the token. What comes from a tree (names, messages, logs)
    is text wherever it goes, and never markup.
"""
