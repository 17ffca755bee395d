"""CPU operators in C++, compiled for this machine when they are first asked for; absent where there is no compiler."""
