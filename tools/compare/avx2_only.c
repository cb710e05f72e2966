// Answers the `cpuid` instructions of a held library (see hold.py) as a CPU with AVX2 and nothing newer would.
//
// hold.py overwrites each `cpuid` (0f a2) with `int3; nop` (cc 90). The handler of the trap, installed when this library
// is preloaded, runs the instruction in its place and clears the bits of AVX-512, AVX-VNNI, AVX-IFMA, AVX10 and AMX
// from the answer (Intel SDM volume 2A, CPUID, leaves 07H and 0DH).

#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdlib.h>
#include <ucontext.h>

// How many answers of leaf 7, where those bits are, were given. peers.py reads it: with none the library was not held.
unsigned avx2_only_answers;

#define BIT(n) (1u << (n))

static void answer(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)info;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    unsigned leaf = registers[REG_RAX], subleaf = registers[REG_RCX], eax, ebx, ecx, edx;
    __cpuid_count(leaf, subleaf, eax, ebx, ecx, edx);
    if (leaf == 7 && subleaf == 0) {
        ebx &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
        ecx &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));
        edx &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));
        __atomic_fetch_add(&avx2_only_answers, 1, __ATOMIC_RELAXED);
    } else if (leaf == 7 && subleaf == 1) {
        eax &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(23));
        edx &= ~(BIT(4) | BIT(5) | BIT(8) | BIT(10) | BIT(19));
    } else if (leaf == 0xd && subleaf == 0) {
        eax &= ~(BIT(5) | BIT(6) | BIT(7) | BIT(17) | BIT(18));
    }
    registers[REG_RAX] = eax;
    registers[REG_RBX] = ebx;
    registers[REG_RCX] = ecx;
    registers[REG_RDX] = edx;
}

__attribute__((constructor)) static void install(void) {
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    if (sigaction(SIGTRAP, &action, NULL) != 0) abort();
}
