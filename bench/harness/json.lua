-- SPDX-License-Identifier: MIT
-- Values as JSON text: for the results of a run, which other programs read.

local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function encode_string(text)
  return '"' .. text:gsub('[%c"\\]', function(char)
    return ESCAPES[char] or ("\\u%04x"):format(char:byte())
  end) .. '"'
end

local encode

local function encode_table(value, indent)
  local inner = indent .. "  "
  local parts = {}
  local open, close = "{", "}"
  if #value > 0 then
    open, close = "[", "]"
    for i, item in ipairs(value) do
      parts[i] = encode(item, inner)
    end
  else
    local keys = {}
    for key in pairs(value) do
      keys[#keys + 1] = key
    end
    table.sort(keys)
    for i, key in ipairs(keys) do
      parts[i] = encode_string(key) .. ": " .. encode(value[key], inner)
    end
  end
  if #parts == 0 then
    return open .. close
  end
  return ("%s\n%s%s\n%s%s"):format(open, inner, table.concat(parts, ",\n" .. inner), indent, close)
end

---Keys in order, two spaces of indentation; an empty table is an object.
---@param value any of booleans, numbers, strings and tables (lists, or with string keys)
---@param indent? string of the line that it stands on
---@return string
function encode(value, indent)
  local kind = type(value)
  if kind == "table" then
    return encode_table(value, indent or "")
  elseif kind == "string" then
    return encode_string(value)
  elseif math.type(value) == "float" then
    return ("%.6g"):format(value)
  end
  return tostring(value)
end

return { encode = encode }
