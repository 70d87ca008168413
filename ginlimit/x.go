package ginlimit
import _ "github.com/gin-gonic/gin"
