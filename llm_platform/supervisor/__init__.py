"""Starts, watches, restarts and stops the platform's processes as one (`llm-platform up`).

platform.py    which processes make up the platform: their command lines, ports and environment
single.py      one of these processes alone, as containers run them (`llm-platform serve NAME`)
dagster_files.py  what Dagster reads from the home folder
supervisor.py  the loop that keeps a list of services running, whatever they are
service.py     one service: how it is described, and the child process that runs it
home.py        one supervisor per home folder: the lock, and the file in which /health finds the processes
sweep.py       finds and ends every process of an instance by a marker in its environment
guardian.py    a tiny process that sweeps when the supervisor itself was killed
leash.py       replaces itself by a command that ends when its parent does
serve.py       runs the API on a listening socket that the supervisor holds
http.py        uvicorn's HTTP protocol, for serve.py: bounded heads, larger pieces of a body
sockets.py     uvicorn's WebSockets, for serve.py
restart.py     asks a running supervisor for a new API process
view.py        what a person sees in the terminal
"""
