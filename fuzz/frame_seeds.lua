-- SPDX-License-Identifier: MIT
-- Writes what the fuzzer of frames starts from: lua frame_seeds.lua DIRECTORY

local directory = assert(..., "which directory?")

-- See csrc/frame.h.
local function frame(kind, body, fields)
  fields = fields or {}
  return string.pack("<c3 B B B I2 I4 I4 I8 I8", fields.magic or "\xC3qF", fields.version or 1,
    kind, fields.detail or 0, fields.zero or 0, fields.slot or 0, fields.extra or 0, fields.id or 1,
    fields.size or #body) .. body
end

local seeds = {
  setup = "\0" .. frame(1, "how to begin"),
  job = "\7" .. frame(2, ("x"):rep(200), { slot = 3, id = 77, extra = 2 }),
  quit = "\1" .. frame(3, ""),
  several = "\30" .. frame(4, "") .. frame(6, "result", { detail = 0x80 })
    .. frame(6, "", { id = 2 }),
  magic = "\0" .. frame(2, "abc", { magic = "GET" }),
  version = "\0" .. frame(2, "abc", { version = 2 }),
  kind = "\0" .. frame(200, "abc"),
  zero = "\0" .. frame(2, "abc", { zero = 1 }),
  huge = "\0" .. frame(2, "abc", { size = 1 << 40 }),
  large = "\69" .. frame(6, ("y"):rep(5000)),
  truncated = "\2" .. frame(6, "abc", { size = 1000 }),
  header = "\5" .. frame(6, ""):sub(1, 20),
}

for name, bytes in pairs(seeds) do
  local file <close> = assert(io.open(directory .. "/" .. name, "wb"))
  assert(file:write(bytes))
end
