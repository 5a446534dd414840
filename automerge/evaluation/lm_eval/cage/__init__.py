"""Run programs that models wrote, and judge them in a process that they cannot reach.

Four processes for each program, three of them made by the second:

- the caller (`launch`) holds the program, its tests and the time limit for everything;
- the keeper (`keeper`) starts the two below, holds the clock and ends both of them;
- the prisoner (`prisoner`) runs the program, and then calls what it defines when asked to;
- the judge (`judge`) runs the tests, and asks the prisoner wherever they use the program.

Prisoner and judge are locked in the same way (`jail`, `syscalls`). They share two pipes, which only
carry plain values (`wire`); the judge alone has the tests and the verdict. So a program can say
what its functions return and nothing else: every comparison is made outside it.
"""
