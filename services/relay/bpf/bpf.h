// SPDX-License-Identifier: Apache-2.0 OR MIT
// What both programs need.
#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define be16(x) __builtin_bswap16(x)
#define be32(x) __builtin_bswap32(x)
#define be64(x) __builtin_bswap64(x)

// Of a slot number, what stays when its place is used again.
#define PLACE 0x00ffffffu

static void *(*const map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static __u64 (*const ktime)(void) = (void *)BPF_FUNC_ktime_get_ns;
