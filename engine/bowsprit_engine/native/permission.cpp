#include "permission.hpp"

#include <sys/syscall.h>
#include <unistd.h>

namespace bowsprit {

#if defined(__AMX_BF16__)

bool is_permitted() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

#else

bool is_permitted() { return true; }

#endif

}  // namespace bowsprit
