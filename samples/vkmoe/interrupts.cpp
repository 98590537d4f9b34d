#include "samples/vkmoe/interrupts.h"

namespace vkmoe::program {
namespace {

volatile std::sig_atomic_t g_asked = 0;

void onSignal(int) {
    g_asked = 1;
    std::signal(SIGINT, SIG_DFL);
    std::signal(SIGTERM, SIG_DFL);
}

}  // namespace

Interrupts::Interrupts() {
    g_asked = 0;
    struct sigaction action = {};
    action.sa_handler = onSignal;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, &old_int_);
    sigaction(SIGTERM, &action, &old_term_);
}

Interrupts::~Interrupts() {
    sigaction(SIGINT, &old_int_, nullptr);
    sigaction(SIGTERM, &old_term_, nullptr);
}

bool Interrupts::asked() const { return g_asked != 0; }

}  // namespace vkmoe::program
