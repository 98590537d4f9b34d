// Whether what the tests call is sanitized, which makes it several times slower. Their own code is not, under ASan.
#pragma once

#if VKMOE_SANITIZED || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif
