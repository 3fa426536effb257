-- SPDX-License-Identifier: MIT
-- Files and commands, for the programs in bench/.

local system = {}

---The first line that a command prints; nil if it fails or prints none.
---@param command string
---@return string?
function system.first_line(command)
  local pipe <close> = io.popen(command .. " 2>/dev/null")
  local line = pipe:read "l"
  if pipe:close() and line then
    return line
  end
  return nil
end

---@param path string
---@return string
function system.read_file(path)
  local file <close> = assert(io.open(path))
  return file:read "a"
end

---Writes a file, and says so.
---@param path string
---@param text string
function system.write_file(path, text)
  local file <close> = assert(io.open(path, "w"))
  assert(file:write(text))
  print("written to " .. path)
end

return system
