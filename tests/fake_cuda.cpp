// A CUDA device without a driver for torch's CPU build, so that autograd and autocast run on FakeTensorMode's tensors.
// `install` puts it in place, and `uninstall` takes it out again.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <new>

namespace {

using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Stream;

struct Hooks final : at::CUDAHooksInterface {
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return false; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
};
// torch creates its hooks once, at the first question, so the object is replaced in its own place.
static_assert(sizeof(Hooks) == sizeof(at::CUDAHooksInterface));

struct Guard final : c10::impl::NoOpDeviceGuardImpl<DeviceType::CUDA> {
  Device getDevice() const override { return {DeviceType::CUDA, 0}; }
  Device exchangeDevice(Device) const override { return getDevice(); }
  Stream getStream(Device) const noexcept override { return Stream(Stream::DEFAULT, getDevice()); }
  Stream exchangeStream(Stream) const noexcept override { return getStream(getDevice()); }
};

void set_guard(const c10::impl::DeviceGuardImplInterface* guard) {
  c10::impl::device_guard_impl_registry[static_cast<size_t>(DeviceType::CUDA)].store(guard);
}

void* hooks() { return const_cast<at::CUDAHooksInterface*>(&at::detail::getCUDAHooks()); }

}  // namespace

extern "C" void install() {
  static const Guard guard;
  set_guard(&guard);
  new (hooks()) Hooks;
}

extern "C" void uninstall() {
  set_guard(nullptr);
  new (hooks()) at::CUDAHooksInterface;
}
