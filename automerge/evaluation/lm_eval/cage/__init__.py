"""Programs that models write run here, and are judged by a process that they cannot reach.

Four processes for each program, three of them made by the second:

- the caller (`launch`) holds the program and its tests, and the time that all of it may take;
- the keeper (`keeper`) makes the two below, holds the clock and ends both of them;
- the prisoner (`prisoner`) runs the program, and then calls what it defines when it is asked to;
- the judge (`judge`) runs the tests, and asks the prisoner wherever they use the program.

Prisoner and judge are locked in alike (`jail`, `syscalls`). They share two pipes, over which only
plain values go (`wire`); the tests and the verdict are in the judge alone. So a program can say
what its functions return and nothing else: every comparison is made outside of it.
"""
