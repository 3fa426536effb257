-- SPDX-License-Identifier: MIT
--
-- Errors about wrong arguments, raised in the line of the program that called concur.

local arguments = {}

-- How the sources of concur's modules begin: their folder, where there are folders.
local SOURCE = debug.getinfo(1, "S").source
local OURS = SOURCE:match "^@.*[/\\]" or SOURCE

-- Raises `text`, formatted with the rest, where the user called concur.
function arguments.misuse(text, ...)
  local level = 2
  while (debug.getinfo(level, "S") or { source = "" }).source:sub(1, #OURS) == OURS do
    level = level + 1
  end
  error(text:format(...), level)
end

-- Raises what a function in C raises for a wrong argument: "bad argument #position to 'name' (text)".
function arguments.bad(position, name, text, ...)
  arguments.misuse("bad argument #%d to '%s' (%s)", position, name, text:format(...))
end

return arguments
