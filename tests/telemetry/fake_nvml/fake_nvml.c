/* A stand-in for the driver's libnvidia-ml.so.1, reached through the real Python binding.
 *
 * Every GPU reads the same, so that a test can state what it expects:
 *   87 % busy, 40e9 of 80e9 bytes used, 412.5 W, 1234.5 J, 61 C, 1755 MHz, processes 4242 and 17.
 * Set by the environment:
 *   FAKE_NVML_GPUS=n     how many GPUs the driver counts (default 2)
 *   FAKE_NVML_LOST=i     GPU i has fallen off its bus: it cannot be opened
 *   FAKE_NVML_DYING=i    GPU i gives its identity, and is lost from then on
 *   FAKE_NVML_MIG=i      GPU i is in MIG mode: it has no utilisation
 *   FAKE_NVML_INIT=r     initialisation returns r
 *   FAKE_NVML_COUNT=r    counting the GPUs returns r
 * Compiled with -DOLD_DRIVER it lacks the functions that an old driver lacks.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3,
               INSUFFICIENT_SIZE = 7, GPU_IS_LOST = 15, VERSION_MISMATCH = 25 } Result;

typedef struct { int index; } Gpu;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } MemoryV2;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; }
    Process;

_Static_assert(sizeof(Utilization) == 8, "nvmlUtilization_t");
_Static_assert(sizeof(Memory) == 24, "nvmlMemory_t");
_Static_assert(sizeof(MemoryV2) == 40, "nvmlMemory_v2_t");
_Static_assert(sizeof(Process) == 24, "nvmlProcessInfo_v2_t");

static Gpu gpus[16] = {{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}};
static int sessions;

static int setting(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static Result usable(const Gpu *gpu) {
    if (!sessions) return UNINITIALIZED;
    return setting("FAKE_NVML_DYING", -1) == gpu->index ? GPU_IS_LOST : SUCCESS;
}

#define CHECK(gpu) do { Result is = usable(gpu); if (is != SUCCESS) return is; } while (0)

Result nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    Result result = setting("FAKE_NVML_INIT", SUCCESS);
    if (result == SUCCESS) sessions++;
    return result;
}

Result nvmlShutdown(void) {
    if (!sessions) return UNINITIALIZED;
    sessions--;
    return SUCCESS;
}

const char *nvmlErrorString(Result result) {
    return result == GPU_IS_LOST ? "GPU is lost" : "Unknown Error";
}

Result nvmlDeviceGetCount_v2(unsigned *count) {
    if (!sessions) return UNINITIALIZED;
    *count = setting("FAKE_NVML_GPUS", 2);
    return setting("FAKE_NVML_COUNT", SUCCESS);
}

Result nvmlDeviceGetHandleByIndex_v2(unsigned index, Gpu **gpu) {
    if (!sessions) return UNINITIALIZED;
    if ((int)index == setting("FAKE_NVML_LOST", -1)) return GPU_IS_LOST;
    *gpu = &gpus[index];
    return SUCCESS;
}

Result nvmlDeviceGetUUID(Gpu *gpu, char *text, unsigned length) {
    snprintf(text, length, "GPU-%08d", gpu->index);
    return SUCCESS;
}

Result nvmlDeviceGetName(Gpu *gpu, char *text, unsigned length) {
    (void)gpu;
    snprintf(text, length, "NVIDIA H100 80GB HBM3");
    return SUCCESS;
}

Result nvmlDeviceGetUtilizationRates(Gpu *gpu, Utilization *rates) {
    CHECK(gpu);
    if (setting("FAKE_NVML_MIG", -1) == gpu->index) return NOT_SUPPORTED;
    *rates = (Utilization){.gpu = 87, .memory = 41};
    return SUCCESS;
}

/* The first version counts the driver's own 1e9 bytes as used, as the real one does. */
Result nvmlDeviceGetMemoryInfo(Gpu *gpu, Memory *memory) {
    CHECK(gpu);
    *memory = (Memory){.total = 80000000000, .free = 39000000000, .used = 41000000000};
    return SUCCESS;
}

Result nvmlDeviceGetPowerUsage(Gpu *gpu, unsigned *milliwatts) {
    CHECK(gpu);
    *milliwatts = 412500;
    return SUCCESS;
}

Result nvmlDeviceGetTotalEnergyConsumption(Gpu *gpu, unsigned long long *millijoules) {
    CHECK(gpu);
    *millijoules = 1234500;
    return SUCCESS;
}

Result nvmlDeviceGetTemperature(Gpu *gpu, unsigned sensor, unsigned *celsius) {
    CHECK(gpu);
    if (sensor != 0) return INVALID_ARGUMENT;
    *celsius = 61;
    return SUCCESS;
}

Result nvmlDeviceGetClockInfo(Gpu *gpu, unsigned clock, unsigned *mhz) {
    CHECK(gpu);
    *mhz = clock == 1 ? 1755 : 2619; /* 1: SM, 2: memory */
    return SUCCESS;
}

#ifndef OLD_DRIVER
Result nvmlDeviceGetMemoryInfo_v2(Gpu *gpu, MemoryV2 *memory) {
    CHECK(gpu);
    if (memory->version != (sizeof(MemoryV2) | 2u << 24)) return VERSION_MISMATCH;
    memory->total = 80000000000;
    memory->reserved = 1000000000;
    memory->free = 39000000000;
    memory->used = 40000000000;
    return SUCCESS;
}

Result nvmlDeviceGetComputeRunningProcesses_v3(Gpu *gpu, unsigned *count, Process *processes) {
    CHECK(gpu);
    unsigned room = processes ? *count : 0;
    *count = 2;
    if (room < 2) return INSUFFICIENT_SIZE;
    memset(processes, 0, 2 * sizeof(Process));
    processes[0].pid = 4242;
    processes[1].pid = 17;
    return SUCCESS;
}
#endif
