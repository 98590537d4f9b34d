// Interrupts: while one exists, the first SIGINT or SIGTERM asks for an end instead of being one. The second kills.
#pragma once

#include <csignal>

namespace vkmoe::program {

class Interrupts {
public:
    Interrupts();
    ~Interrupts();
    Interrupts(const Interrupts&) = delete;
    Interrupts& operator=(const Interrupts&) = delete;
    bool asked() const;

private:
    struct sigaction old_int_ = {}, old_term_ = {};
};

}  // namespace vkmoe::program
