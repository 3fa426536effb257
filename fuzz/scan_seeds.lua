-- SPDX-License-Identifier: MIT
-- Writes what the fuzzer of read formats starts from: lua scan_seeds.lua DIRECTORY

local directory = assert(..., "which directory?")

-- Five bytes of separator, eight formats (kind, limit), the text, the size of the pieces.
local function seed(separator, kinds, limit, text, piece)
  local bytes = { (separator .. "     "):sub(1, 5) }
  for i = 1, 8 do
    local kind = kinds[(i - 1) % #kinds + 1] + 7 * (#separator - 1)
    bytes[#bytes + 1] = string.char(kind, limit)
  end
  return table.concat(bytes) .. text .. string.char(piece)
end

local LINE, LINE_END, NUMBER, ALL, COUNT, SOME, UNTIL = 0, 1, 2, 3, 4, 5, 6
local text = "first line\nsecond\r\n\n0x1F -12.5e-3 nan\nrest without end"

local seeds = {
  lines = seed("\n", { LINE, LINE_END }, 0x80, text, 2),
  numbers = seed("\n", { NUMBER }, 0x80, " 12 0x.8p1 -3e+ 1e5x 7" .. ("9"):rep(250), 0),
  counts = seed("\n", { COUNT, SOME }, 5, text, 1),
  all = seed("\n", { LINE, ALL }, 0x80, text, 3),
  till = seed("\r\n", { UNTIL }, 0x80, text, 0),
  twice = seed("aab", { UNTIL, LINE }, 0x80, "aaabaaaabab\naab", 0),
  overrun = seed("\n", { LINE, UNTIL }, 3, text, 4),
}

for name, bytes in pairs(seeds) do
  local file <close> = assert(io.open(directory .. "/" .. name, "wb"))
  file:write(bytes)
end
