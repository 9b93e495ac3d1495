// Whether the operating system lets this process use the variant's instructions; asked once, before any kernel runs.
#pragma once

namespace bowsprit {

// AMX's tiles are 8 KB more to save at a thread switch, so Linux hands them out on request only, to all threads of the
// process; a sandbox may refuse. Everything else needs no permission beyond what /proc/cpuinfo says.
bool is_permitted();

}  // namespace bowsprit
