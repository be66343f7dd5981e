// Ctrl-C, SIGTERM, a closed pipe, and a mapped file that is cut under us.
#pragma once

#include "format/status.h"

namespace polykv::cli {

// SIGINT and SIGTERM set a flag that long work polls, so that what was begun is cleaned up by unwinding; a second
// Ctrl-C removes temporary files and ends the process at once. SIGINT stays ignored if it was. System calls that wait
// return EINTR. SIGPIPE is ignored: writes give EPIPE instead. SIGBUS in a mapped file, of which a page can no longer
// be read, removes temporary files and ends the process with one line on stderr and the exit status that
// check_unchanged() would have led to; any other SIGBUS as usual.
void install_signal_handlers();

bool stop_requested();
// Success, or kInterrupted (exit 130) or kTerminated (143).
format::Status check_stop();
void forget_stop();  // for tests

}  // namespace polykv::cli
